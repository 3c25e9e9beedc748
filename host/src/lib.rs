//! x
pub mod clock;
pub mod cli {
    pub fn chain(e: &dyn std::error::Error) -> String {
        e.to_string()
    }
}
pub mod compare;
pub mod config;
pub mod dispatch;
pub mod judge;
pub mod migration;
pub mod notify;
pub mod observe;
pub mod policy;
pub mod pool;
pub mod request;
pub mod route;
pub mod shadow;
pub mod stage;
pub mod store;
