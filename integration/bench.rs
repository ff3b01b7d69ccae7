//! Rows beside their floors.
