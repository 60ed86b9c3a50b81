"""Tell the engine over Kafka, in JSON, that a visitor liked a film: needs nothing but kafka-python.

python docs/examples/produce_json.py 127.0.0.1:9092 --tenant default --user anna --item film/m42
"""

# ruff: noqa: INP001 - a program of its own, in no package

import argparse
import json
import time
import uuid

from kafka import KafkaProducer


def main() -> None:
    """Send one `InteractionRecorded` and wait until all copies of the log have it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("brokers", help="host:port[,host:port...]")
    parser.add_argument("--tenant", default="default")
    parser.add_argument("--user", default="anna")
    parser.add_argument("--item", default="film/m42", metavar="TYPE/ID")
    parser.add_argument("--interaction", default="like")
    options = parser.parse_args()
    item_type, _, item_id = options.item.partition("/")

    # The proto3 JSON mapping: the fields' names as in the proto or in camelCase, 64-bit numbers as numbers or texts.
    event = {
        "event_id": uuid.uuid4().hex,  # kept when the same event is sent again, so that it counts once
        "occurred_at_ms": time.time_ns() // 1_000_000,  # when the user did it, not when it is sent
        "tenant": options.tenant,
        "user_id": options.user,
        "item_type": item_type,
        "item_id": item_id,
        "interaction_type": options.interaction,
    }
    producer = KafkaProducer(bootstrap_servers=options.brokers.split(","), acks="all", enable_idempotence=True)
    producer.send(
        "user.interactions",
        key=f"{options.tenant}/{options.user}".encode(),
        value=json.dumps(event).encode(),
        headers=[("content-type", b"application/json")],
    ).get(timeout=30)
    producer.close()


if __name__ == "__main__":
    main()
