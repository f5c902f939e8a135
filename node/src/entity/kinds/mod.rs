//! The kinds that every node has, one file each. They are written to be copied: types first, then what the entity decides,
//! then how its events fold. Pure.

pub mod account;
pub mod cart;
pub mod counter;
pub mod document;

pub use account::Account;
pub use cart::Cart;
pub use counter::Counter;
pub use document::Document;
