//! The program, from outside.

mod doctor;
mod migrate;
mod operator;
mod program;
mod run;
mod send;
mod settings;
mod tls;
