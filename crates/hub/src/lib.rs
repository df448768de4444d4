//! Models and rows from the Hugging Face hub by their names. The hub's own cache is read first, laid out as `huggingface_hub`
//! does; what is not there is downloaded into it, checked by hash.
//!
//! Names, addresses and layout are those of the crate `hf-hub`. Its downloads are not used: they send the token on to any host to which
//! the hub redirects, check no hash, append to a partial file whatever a server answers, and wait without limit.

mod environment;
mod error;
mod hub;
mod layout;
mod name;
mod readme;
mod remote;
mod transfer;

pub use environment::{AccessToken, HubSettings};
pub use error::{Error, Result};
pub use hub::{Hub, HubSnapshot};
pub use name::{ModelName, ROWS_PREFIX, RepoName, RowsName};
pub use transfer::Downloaded;
