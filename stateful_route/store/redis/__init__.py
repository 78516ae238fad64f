"""The store on Redis or Valkey: scripts, keys, and what they carry."""
