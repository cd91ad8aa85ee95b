//! Certificates of a test's own, made when it runs.

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use crate::servers::kafka::Identity;

/// A certificate authority, which nobody believes who was not told to.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl Certificate {
    /// As whom a server presents itself with it. It believes clients with a certificate of this authority.
    pub fn identity<'a>(&'a self, clients: &'a Authority) -> Identity<'a> {
        Identity {
            certificate: &self.certificate,
            key: &self.key,
            authority: clients.certificate(),
        }
    }
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    ///
    /// When there are no random numbers.
    pub fn new() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "an authority for tests");
        let certificate = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);
        Ok(Self {
            issuer,
            certificate,
        })
    }

    /// Its own certificate, in PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate with this common name, for these hosts: names or addresses.
    ///
    /// # Errors
    ///
    /// When a host is neither.
    pub fn issue(&self, name: &str, hosts: &[&str]) -> Result<Certificate> {
        let key = KeyPair::generate()?;
        let hosts: Vec<_> = hosts.iter().map(|&host| host.to_owned()).collect();
        let mut params = CertificateParams::new(hosts)?;
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        let key = key.serialize_pem();
        Ok(Certificate { certificate, key })
    }
}
