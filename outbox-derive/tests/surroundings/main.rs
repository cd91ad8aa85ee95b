//! What must compile in difficult surroundings, and work there.

// Each is a program of its own: it brings the lints that it is judged by.
mod deprecated;
mod lints;
mod macro_rules;
mod no_implicit_prelude;
mod renamed;
mod shapes;
mod taken_names;
