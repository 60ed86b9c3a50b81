"""Other producers compress as they like."""

import pytest
from kafka import KafkaProducer
from servers.addresses import Addresses

from servicekit.eventlog.kafka.log import KafkaEventLog
from servicekit.eventlog.port import TopicSpec

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.mark.parametrize("codec", ["gzip", "lz4", "snappy", "zstd"])
async def test_every_codec_of_kafka_is_read(servers: Addresses, unique_name: str, codec: str) -> None:
    log = KafkaEventLog([servers.kafka])
    try:
        await log.ensure_topics([TopicSpec(unique_name, partitions=1)])
        with KafkaProducer(bootstrap_servers=servers.kafka, compression_type=codec) as producer:
            producer.send(unique_name, key=b"key", value=b"value " * 1_000)
        consumer = log.consumer([unique_name], group=None)
        (record,) = await consumer.poll(max_records=10, timeout_s=30.0)
        assert record.value == b"value " * 1_000
        await consumer.close()
    finally:
        await log.close()
