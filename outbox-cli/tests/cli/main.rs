//! The program, from outside.

mod migrate;
mod program;
mod run;
mod settings;
