//! Secrets of the setting.
