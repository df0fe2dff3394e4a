"""Published methods: one file each, registered through the plugin hooks."""
