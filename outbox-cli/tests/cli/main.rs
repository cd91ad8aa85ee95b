//! The program, from outside.

mod brokers;
mod browser;
mod doctor;
mod http;
mod migrate;
mod operator;
mod packaging;
mod program;
mod request;
mod run;
mod send;
mod settings;
mod sink_settings;
mod sinks;
mod tail;
mod tls;
mod verify;
