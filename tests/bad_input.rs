//! Wrong configurations, requests, orders and command lines: each is refused in words that say what to change.

mod cli;
mod config;
mod planes;
