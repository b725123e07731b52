//! Stub while the modules land.
pub mod board;
pub mod shared;
