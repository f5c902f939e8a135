//! The planner against a world whose members come, leave, die and flap as a test says.

mod deciding;
mod flapping;
mod running;
mod world;
