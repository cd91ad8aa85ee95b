//! The reference of the derive, whose examples are tested here.

#![doc = include_str!("../REFERENCE.md")]
