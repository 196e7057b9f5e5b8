//! Control groups, v2 and v1: limits, membership, freeze, kill, events, statistics, device filter.
