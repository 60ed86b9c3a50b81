"""Decides what plain autoscalers cannot: how many read replicas the graph has, and where Qdrant's shards lie."""
