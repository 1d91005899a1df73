"""The YAML as frozen, validated classes, and the templates and schedules that it names."""
