//! The program, from outside.

mod migrate;
mod operator;
mod program;
mod run;
mod settings;
