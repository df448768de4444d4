//! What is chosen on validation prompts and read on test prompts, first and last, cheapest and best: all that connects the statistics
//! is held against a second program, written from the definitions (docs/verdicts.md) and as plainly as it can be, on a simulated run in
//! which validation and test have nothing to do with each other.

mod charts;
mod definitions;
mod numbers;
mod simulation;
