"""What an export does with models: it makes the files, and reads them back as others will. Each in its own process."""
