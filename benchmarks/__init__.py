"""Speed, measured: paired, interleaved rounds in one process, as ratios with intervals."""
