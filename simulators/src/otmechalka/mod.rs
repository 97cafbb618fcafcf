//! A strict double of the five calls of otmechalka that Rollcall makes.
