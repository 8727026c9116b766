//! Reads the PEM files of `tls`, and refuses a private key that others may read. Root, this process's user and
//! the groups that it is in are not others.
//!
//! Errors carry the name of the file. What the sections mean is left to `tls`.

#![allow(
    clippy::disallowed_methods,
    reason = "keys are read once, at start, outside the disk seam of the log"
)]

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};

use super::TlsError;
use crate::access::{Rights, Us};

/// A larger file is no certificate or key.
pub(super) const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// PEM bytes, and how to call them in an error.
pub(super) struct Pem {
    pub(super) file: String,
    pub(super) bytes: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Secrecy {
    Public,
    OwnerOnly,
}

impl Pem {
    pub(super) fn read(what: &str, path: &Path, secrecy: Secrecy) -> Result<Self, TlsError> {
        let file = format!("{what} {}", path.display());
        let failed = |source| TlsError::Read {
            file: file.clone(),
            source,
        };
        let opened = File::open(path).map_err(failed)?;
        if secrecy == Secrecy::OwnerOnly {
            // The mode of the open file, so that it cannot be swapped between the check and the read.
            let rights = Rights::from(&opened.metadata().map_err(failed)?);
            if Us::now().shares_secret(rights) {
                return Err(TlsError::OpenKey {
                    path: path.to_owned(),
                    mode: rights.mode,
                });
            }
        }
        let mut bytes = Vec::new();
        opened
            .take(FILE_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(TlsError::TooLarge { file });
        }
        Ok(Self { file, bytes })
    }

    /// The lists of revoked certificates in it.
    pub(super) fn revoked(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
        let lists: Result<Vec<_>, _> =
            CertificateRevocationListDer::pem_slice_iter(&self.bytes).collect();
        let lists = lists.map_err(|source| TlsError::Pem {
            file: self.file.clone(),
            source,
        })?;
        if lists.is_empty() {
            let file = self.file.clone();
            return Err(TlsError::NoList { file });
        }
        Ok(lists)
    }

    /// At least one certificate.
    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let found = CertificateDer::pem_slice_iter(&self.bytes)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| TlsError::Pem {
                file: self.file.clone(),
                source,
            })?;
        if found.is_empty() {
            return Err(TlsError::NoCertificate {
                file: self.file.clone(),
            });
        }
        Ok(found)
    }
}
