//! Test hosts in network namespaces.
