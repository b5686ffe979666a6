// Command convert turns the weights of other projects into a file that needs nothing beside it: safetensors with the
// network's configuration, noise schedule and value range in the metadata.
//
//	convert -i ffhq_10m.safetensors -o ffhq.safetensors --preset ffhq_10m --dtype f16
//
// What a file does not say (numbers of heads, schedule) comes from a named preset or a configuration file, and is held
// against the shapes of the tensors. All variety of names and layouts ends here: each origin of weights is one row of
// the sources table (source.go) and one file of its own.
//
// Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. The output is written whole or not at all, and an
// existing file is replaced only with --force.
package main
