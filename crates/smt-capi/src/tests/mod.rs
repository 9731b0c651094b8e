//! Tests that need the insides.

mod layout;
mod misuse;
mod session;
