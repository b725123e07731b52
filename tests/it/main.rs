//! Everything that needs a whole fleet, or the whole repository.

mod tidy;

mod adoption;
mod clients;
mod front_doors;
mod hostile;
mod loadtest;
mod rollouts;
mod seeds;
mod supervision;
