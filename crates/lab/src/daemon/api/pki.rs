//! Certificates and keys of a lab's API server: made once a lab, by an authority whose key is thrown away.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::files;

/// Names of the API's Service, as certificates of real clusters hold them.
const SERVICE_NAMES: [&str; 4] =
    ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
/// The group that may do everything: user-facing roles of Kubernetes' RBAC documentation.
const ADMINISTRATORS: &str = "system:masters";

/// Where they are.
#[derive(Clone, Debug)]
pub struct Pki {
    dir: PathBuf,
}

impl Pki {
    /// Makes them in `dir`, unless they are there. The API server answers at `addresses`.
    pub fn open(dir: &Path, addresses: &[IpAddr]) -> Result<Self> {
        let pki = Self { dir: dir.to_owned() };
        if !dir.exists() {
            // Whole or absent.
            let scratch = Self { dir: dir.with_extension("new") };
            files::remove_dir(&scratch.dir)?;
            scratch.make(addresses).context("make the API server's certificates")?;
            std::fs::rename(&scratch.dir, dir).with_context(|| format!("rename to {}", dir.display()))?;
        }
        Ok(pki)
    }

    /// The authority's certificate.
    pub fn authority(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// Certificate and key of the API server.
    pub fn server(&self) -> [PathBuf; 2] {
        self.pair("apiserver")
    }

    /// Certificate and key of the lab itself, which may do everything.
    pub fn administrator(&self) -> [PathBuf; 2] {
        self.pair("admin")
    }

    /// The keys of service accounts' tokens: the one that they are checked by, and the one that signs them.
    pub fn accounts(&self) -> [PathBuf; 2] {
        ["pub", "key"].map(|extension| self.dir.join(format!("sa.{extension}")))
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn pair(&self, name: &str) -> [PathBuf; 2] {
        ["crt", "key"].map(|extension| self.dir.join(format!("{name}.{extension}")))
    }

    fn make(&self, addresses: &[IpAddr]) -> Result<()> {
        let mut authority = named("overlane-lab");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = authority.self_signed(&key)?;
        let issuer = Issuer::new(authority, key);
        files::write(&self.authority(), certificate.pem().as_bytes())?;

        let names = SERVICE_NAMES.iter().map(|name| (*name).to_owned());
        let names: Vec<String> = names.chain(addresses.iter().map(IpAddr::to_string)).collect();
        let mut server = CertificateParams::new(names)?;
        server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        write(&self.server(), &server, &issuer)?;

        let mut administrator = named("overlane-lab");
        administrator.distinguished_name.push(DnType::OrganizationName, ADMINISTRATORS);
        administrator.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        write(&self.administrator(), &administrator, &issuer)?;
        let (tokens, [public, private]) = (KeyPair::generate()?, self.accounts());
        files::write(&public, tokens.public_key_pem().as_bytes())?;
        files::write(&private, tokens.serialize_pem().as_bytes())
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    // A library's default name would be an authority's second one.
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn write([certificate, file]: &[PathBuf; 2], params: &CertificateParams, issuer: &Issuer<'_, KeyPair>) -> Result<()> {
    let key = KeyPair::generate()?;
    let signed: Certificate = params.signed_by(&key, issuer)?;
    files::write(certificate, signed.pem().as_bytes())?;
    files::write(file, key.serialize_pem().as_bytes())
}
