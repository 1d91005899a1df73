"""What an export does with models: it makes the files, and reads them back as other programs do, in two processes."""
