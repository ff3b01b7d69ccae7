//! Bad input and faults: each is answered with a sentence or the right errno, and nothing is lost.

mod damage;
mod refusals;
mod signals;
mod store;
