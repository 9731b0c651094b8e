//! The program `smt`.

fn main() {}
