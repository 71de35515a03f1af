//! The guest's memory.
