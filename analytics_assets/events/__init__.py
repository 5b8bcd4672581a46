"""From an export to checked events: files, records, rejected lines, identities and sessions."""
