"""Tell the engine over Kafka, in protobuf, that a film is new or has changed, or is gone.

Needs kafka-python and the bindings of protos/recommendation, which come with the engine's package.

    python docs/examples/produce_protobuf.py 127.0.0.1:9092 --item film/m42 --title "A Film" --genres Drama Crime
    python docs/examples/produce_protobuf.py 127.0.0.1:9092 --item film/m42 --delete
"""

# ruff: noqa: INP001 - a program of its own, in no package

import argparse
import time
import uuid

from kafka import KafkaProducer

from recommendation.common.v1.common_pb2 import AttributeValue, Item, ItemRef
from recommendation.events.v1.events_pb2 import ContentChanged


def main() -> None:
    """Send one `ContentChanged` and wait until all copies of the log have it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("brokers", help="host:port[,host:port...]")
    parser.add_argument("--tenant", default="default")
    parser.add_argument("--item", default="film/m42", metavar="TYPE/ID")
    parser.add_argument("--title", default="A Film")
    parser.add_argument("--genres", nargs="*", default=[])
    parser.add_argument("--delete", action="store_true")
    options = parser.parse_args()
    item_type, _, item_id = options.item.partition("/")
    now_ms = time.time_ns() // 1_000_000

    event = ContentChanged(event_id=uuid.uuid4().hex, occurred_at_ms=now_ms)
    if options.delete:
        event.deleted.CopyFrom(ItemRef(tenant=options.tenant, item_type=item_type, item_id=item_id))
    else:
        item = Item(  # the whole new state: what is left out is gone
            tenant=options.tenant,
            item_type=item_type,
            item_id=item_id,
            title=options.title,
            created_at_ms=now_ms,
            updated_at_ms=now_ms,
        )
        if options.genres:
            genres = AttributeValue(texts=AttributeValue.StringList(values=options.genres))
            item.attributes["genres"].CopyFrom(genres)
        event.put.CopyFrom(item)
    producer = KafkaProducer(bootstrap_servers=options.brokers.split(","), acks="all", enable_idempotence=True)
    producer.send(
        "content.changed",
        key=f"{options.tenant}/{item_type}/{item_id}".encode(),
        value=event.SerializeToString(),
    ).get(timeout=30)
    producer.close()


if __name__ == "__main__":
    main()
