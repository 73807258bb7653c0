//! Which store answers for a location, with credentials from the options and the environment and from nowhere else:
//! no request goes to a metadata service that nobody named.

use std::{env, str::FromStr, sync::Arc};

use object_store::{
    ObjectStore, Result, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
};

use super::http::Connector;
use crate::storage::{Location, StorageOptions};

/// Settings one of which must be there, in the environment in capitals.
const S3_CREDENTIALS: &[&str] = &[
    "aws_access_key_id",
    "aws_web_identity_token_file",
    "aws_container_credentials_relative_uri",
    "aws_container_credentials_full_uri",
    "aws_skip_signature",
];
const AZURE_CREDENTIALS: &[&str] = &[
    "azure_storage_account_key",
    "azure_storage_access_key",
    "azure_storage_sas_key",
    "azure_storage_sas_token",
    "azure_storage_token",
    "azure_client_secret",
    "azure_storage_client_secret",
    "azure_federated_token_file",
    "azure_skip_signature",
];
const GOOGLE_CREDENTIALS: &[&str] = &[
    "google_service_account",
    "google_service_account_path",
    "google_service_account_key",
    "google_application_credentials",
    "google_bearer_token",
    "google_skip_signature",
];

/// The store; nothing where there are no credentials for it, or the location is a directory.
pub(super) fn store(
    location: &Location,
    options: &StorageOptions,
    connector: Connector,
) -> Result<Option<Arc<dyn ObjectStore>>> {
    let store: Arc<dyn ObjectStore> = match location {
        Location::Local(_) => return Ok(None),
        Location::S3 { .. } if !is_any_set(options, S3_CREDENTIALS) => return Ok(None),
        Location::Azure { .. } if !is_any_set(options, AZURE_CREDENTIALS) => return Ok(None),
        Location::Google { .. } if !is_any_set(options, GOOGLE_CREDENTIALS) => return Ok(None),
        Location::S3 { endpoint, bucket, .. } => {
            let settings = settings::<AmazonS3ConfigKey>(options, "aws_")?;
            let builder =
                settings.into_iter().fold(AmazonS3Builder::from_env(), |b, (k, v)| b.with_config(k, v));
            let mut builder = builder
                .with_bucket_name(bucket)
                .with_checksum_algorithm(Checksum::SHA256)
                .with_retry(no_retries())
                .with_http_connector(connector);
            if let Some(endpoint) = endpoint {
                builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http:"));
            }
            Arc::new(builder.build()?)
        }
        Location::Azure { container, .. } => {
            let settings = settings::<AzureConfigKey>(options, "azure_")?;
            let builder =
                settings.into_iter().fold(MicrosoftAzureBuilder::from_env(), |b, (k, v)| b.with_config(k, v));
            let builder = builder.with_container_name(container).with_retry(no_retries());
            Arc::new(builder.with_http_connector(connector).build()?)
        }
        Location::Google { bucket, .. } => {
            let settings = settings::<GoogleConfigKey>(options, "google_")?;
            let builder = settings
                .into_iter()
                .fold(GoogleCloudStorageBuilder::from_env(), |b, (k, v)| b.with_config(k, v));
            let builder = builder.with_bucket_name(bucket).with_retry(no_retries());
            Arc::new(builder.with_http_connector(connector).build()?)
        }
    };
    Ok(Some(store))
}

/// What to set, for a message.
pub(super) fn missing_credentials(location: &Location) -> &'static str {
    match location {
        Location::Azure { .. } => {
            "there are no credentials: set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"
        }
        Location::Google { .. } => "there are no credentials: set GOOGLE_APPLICATION_CREDENTIALS",
        _ => "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    }
}

fn is_any_set(options: &StorageOptions, names: &[&str]) -> bool {
    names
        .iter()
        .any(|name| options.settings.contains_key(*name) || env::var_os(name.to_uppercase()).is_some())
}

/// Whether a location's provider knows a setting of this name, in small letters.
pub(in crate::storage) fn knows(location: &Location, name: &str) -> bool {
    match location {
        Location::Local(_) => false,
        Location::S3 { .. } => name.starts_with("aws_") && AmazonS3ConfigKey::from_str(name).is_ok(),
        Location::Azure { .. } => name.starts_with("azure_") && AzureConfigKey::from_str(name).is_ok(),
        Location::Google { .. } => name.starts_with("google_") && GoogleConfigKey::from_str(name).is_ok(),
    }
}

/// The settings for one provider, which its names begin with.
fn settings<K: FromStr<Err = object_store::Error>>(
    options: &StorageOptions,
    provider: &str,
) -> Result<Vec<(K, String)>> {
    let ours = options.settings.iter().filter(|(name, _)| name.starts_with(provider));
    ours.map(|(name, value)| Ok((name.parse()?, value.clone()))).collect()
}

/// Callers decide on retries, in one place for all storages.
fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}
