//! skeleton
/// Room in the buffer. What a write does not use goes back when this is dropped.
#[derive(Debug)]
pub struct Reservation {}
