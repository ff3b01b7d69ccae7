//! Keys of encrypted volumes, and what is sealed with them (volume format 3.3).
//!
//! A volume has one private key, a PEM text that may itself need a passphrase ([`PrivateKey`]). With
//! it a [`Cipher`] seals and opens whole objects in the very form JuiceFS gives them, and local files
//! in a form of our own (`docs/formats/sealed-cache-file.md`) that can be read in pieces. Each sealed
//! thing carries the data key it was sealed with, wrapped for the volume's key.
//!
//! The rule kept: no data key and no passphrase appears in a message, a log or a `Debug`; no nonce is
//! used twice under one data key.
//!
//! Not here: compression, names of objects, and where chance comes from: whoever makes a cipher
//! brings it along.

mod algorithm;
mod cipher;
mod data_key;
mod error;
mod legacy_pem;
mod local_file;
mod passphrase;
mod private_key;

pub use algorithm::Algorithm;
pub use cipher::{Chance, Cipher};
pub use error::{KeyError, OpenError};
pub use local_file::{LocalFile, PIECE_BYTES};
pub use passphrase::Passphrase;
pub use private_key::PrivateKey;
