//! CairnFS
