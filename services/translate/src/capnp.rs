//! Placeholder while the interface is generated.
