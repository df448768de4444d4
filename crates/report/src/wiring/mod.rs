//! How the statistics are connected (what is chosen on validation prompts and read on test prompts, first or last, cheapest or best)
//! is compared with a second program, written as plainly as possible from the definitions (docs/verdicts.md), on a simulated run in
//! which validation and test are independent.

mod charts;
mod definitions;
mod numbers;
mod preferences;
mod simulation;
