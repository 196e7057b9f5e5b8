//! The CRI services: sandbox and container life cycles, statistics, reconciliation.
