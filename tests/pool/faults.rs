//! Workers that misbehave in every way: callers get an answer in time, memory is bounded, and the pool is whole again.
