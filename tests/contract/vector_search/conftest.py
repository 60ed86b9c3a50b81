"""What these tests share."""

from contract.vector_search.qdrant_support import qdrant

__all__ = ["qdrant"]
