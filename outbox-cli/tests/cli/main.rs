//! The program, from outside.

mod program;
mod run;
mod settings;
