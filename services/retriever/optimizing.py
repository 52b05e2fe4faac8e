"""``python -m services.retriever.optimizing FOLDER`` builds the graph of a closed shard: ``EdgeStore.optimize``."""

import sys

import qdrant_edge


def main() -> None:
    """Optimize one shard."""
    shard = qdrant_edge.EdgeShard.load(sys.argv[1])
    shard.optimize()
    shard.flush()
    shard.close()


if __name__ == "__main__":
    main()
