"""Public audio-language benchmarks: layout, prompt, and two readings of each response, the published script's and ours."""
