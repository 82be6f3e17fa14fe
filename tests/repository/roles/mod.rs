//! What each role can do, what it cannot, and what somebody can do who stole all that a host has.

mod authority;
mod nights;
mod poison;
mod slots;
mod thief;
