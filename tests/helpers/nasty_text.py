"""Text that formats must escape."""

NASTY = "<script>window.pwned = 1</script>&\"'|*_`"
