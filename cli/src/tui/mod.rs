//! The screen of `sweetops top`.
//!
//! ```text
//! terminal ──key──▶ input ──Action──▶ model ──▶ draw ──▶ terminal
//! fleet ──Snapshot──────────────────────▲
//! ```
//!
//! [`model`] holds all there is to know, [`input`] turns keys into actions on it, [`draw`] only reads it.
//! None of the three touches a terminal or the fleet, so a test drives them with plain values.

pub mod draw;
pub mod input;
pub mod model;
