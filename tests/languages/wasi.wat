;; A policy that imports every interface of the stand-in for WASI. Its settings are a number of two digits: `configure` calls
;; the function of that number, in the order of `$cases`, and traps unless the answer is what the stand-in says.
(component
  (import "wasi:io/error@0.2.0" (instance $error
    (export "error" (type $error (sub resource)))
    (export "[method]error.to-debug-string" (func (param "self" (borrow $error)) (result string)))))
  (alias export $error "error" (type $io-error))
  (import "wasi:io/poll@0.2.0" (instance $poll
    (export "pollable" (type $pollable (sub resource)))
    (export "[method]pollable.ready" (func (param "self" (borrow $pollable)) (result bool)))
    (export "[method]pollable.block" (func (param "self" (borrow $pollable))))
    (export "poll" (func (param "in" (list (borrow $pollable))) (result (list u32))))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:io/streams@0.2.12" (instance $streams
    (alias outer 1 $io-error (type $outer-error))
    (export "error" (type $error (eq $outer-error)))
    (alias outer 1 $pollable (type $outer-pollable))
    (export "pollable" (type $pollable (eq $outer-pollable)))
    (type $failure (variant (case "last-operation-failed" (own $error)) (case "closed")))
    (export "stream-error" (type $stream-error (eq $failure)))
    (export "input-stream" (type $in (sub resource)))
    (export "output-stream" (type $out (sub resource)))
    (type $done (result (error $stream-error)))
    (type $bytes (result (list u8) (error $stream-error)))
    (type $number (result u64 (error $stream-error)))
    (export "[method]input-stream.read" (func (param "self" (borrow $in)) (param "len" u64) (result $bytes)))
    (export "[method]input-stream.blocking-read" (func (param "self" (borrow $in)) (param "len" u64) (result $bytes)))
    (export "[method]input-stream.skip" (func (param "self" (borrow $in)) (param "len" u64) (result $number)))
    (export "[method]input-stream.blocking-skip" (func (param "self" (borrow $in)) (param "len" u64) (result $number)))
    (export "[method]input-stream.subscribe" (func (param "self" (borrow $in)) (result (own $pollable))))
    (export "[method]output-stream.check-write" (func (param "self" (borrow $out)) (result $number)))
    (export "[method]output-stream.write"
      (func (param "self" (borrow $out)) (param "contents" (list u8)) (result $done)))
    (export "[method]output-stream.blocking-write-and-flush"
      (func (param "self" (borrow $out)) (param "contents" (list u8)) (result $done)))
    (export "[method]output-stream.flush" (func (param "self" (borrow $out)) (result $done)))
    (export "[method]output-stream.blocking-flush" (func (param "self" (borrow $out)) (result $done)))
    (export "[method]output-stream.write-zeroes"
      (func (param "self" (borrow $out)) (param "len" u64) (result $done)))
    (export "[method]output-stream.blocking-write-zeroes-and-flush"
      (func (param "self" (borrow $out)) (param "len" u64) (result $done)))
    (export "[method]output-stream.splice"
      (func (param "self" (borrow $out)) (param "src" (borrow $in)) (param "len" u64) (result $number)))
    (export "[method]output-stream.blocking-splice"
      (func (param "self" (borrow $out)) (param "src" (borrow $in)) (param "len" u64) (result $number)))
    (export "[method]output-stream.subscribe" (func (param "self" (borrow $out)) (result (own $pollable))))))
  (alias export $streams "input-stream" (type $input-stream))
  (alias export $streams "output-stream" (type $output-stream))
  (import "wasi:cli/environment@0.2.0" (instance $environment
    (export "get-environment" (func (result (list (tuple string string)))))
    (export "get-arguments" (func (result (list string))))
    (export "initial-cwd" (func (result (option string))))
    ;; No such thing in WASI.
    (export "set-environment" (func))))
  (import "wasi:cli/exit@0.2.0" (instance $exit (export "exit" (func (param "status" (result))))))
  (import "wasi:cli/stdin@0.2.0" (instance $stdin
    (alias outer 1 $input-stream (type $outer))
    (export "input-stream" (type $in (eq $outer)))
    (export "get-stdin" (func (result (own $in))))))
  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (alias outer 1 $output-stream (type $outer))
    (export "output-stream" (type $out (eq $outer)))
    (export "get-stdout" (func (result (own $out))))))
  (import "wasi:cli/stderr@0.2.0" (instance $stderr
    (alias outer 1 $output-stream (type $outer))
    (export "output-stream" (type $out (eq $outer)))
    (export "get-stderr" (func (result (own $out))))))
  (import "wasi:cli/terminal-input@0.2.0" (instance $terminal-input (export "terminal-input" (type (sub resource)))))
  (alias export $terminal-input "terminal-input" (type $terminal-input))
  (import "wasi:cli/terminal-output@0.2.0" (instance $terminal-output (export "terminal-output" (type (sub resource)))))
  (alias export $terminal-output "terminal-output" (type $terminal-output))
  (import "wasi:cli/terminal-stdin@0.2.0" (instance $terminal-stdin
    (alias outer 1 $terminal-input (type $outer))
    (export "terminal-input" (type $terminal (eq $outer)))
    (export "get-terminal-stdin" (func (result (option (own $terminal)))))))
  (import "wasi:cli/terminal-stdout@0.2.0" (instance $terminal-stdout
    (alias outer 1 $terminal-output (type $outer))
    (export "terminal-output" (type $terminal (eq $outer)))
    (export "get-terminal-stdout" (func (result (option (own $terminal)))))))
  (import "wasi:cli/terminal-stderr@0.2.0" (instance $terminal-stderr
    (alias outer 1 $terminal-output (type $outer))
    (export "terminal-output" (type $terminal (eq $outer)))
    (export "get-terminal-stderr" (func (result (option (own $terminal)))))))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $monotonic
    (alias outer 1 $pollable (type $outer))
    (export "pollable" (type $pollable (eq $outer)))
    (export "now" (func (result u64)))
    (export "resolution" (func (result u64)))
    (export "subscribe-instant" (func (param "when" u64) (result (own $pollable))))
    (export "subscribe-duration" (func (param "when" u64) (result (own $pollable))))))
  (import "wasi:clocks/wall-clock@0.2.0" (instance $wall
    (type $record (record (field "seconds" u64) (field "nanoseconds" u32)))
    (export "datetime" (type $datetime (eq $record)))
    (export "now" (func (result $datetime)))
    (export "resolution" (func (result $datetime)))))
  (import "wasi:filesystem/types@0.2.0" (instance $filesystem
    (export "descriptor" (type $descriptor (sub resource)))
    (export "[method]descriptor.sync" (func (param "self" (borrow $descriptor)) (result (result))))))
  (alias export $filesystem "descriptor" (type $descriptor))
  (import "wasi:filesystem/preopens@0.2.0" (instance $preopens
    (alias outer 1 $descriptor (type $outer))
    (export "descriptor" (type $descriptor (eq $outer)))
    (export "get-directories" (func (result (list (tuple (own $descriptor) string)))))))
  (import "wasi:random/random@0.2.0" (instance $random
    (export "get-random-bytes" (func (param "len" u64) (result (list u8))))
    (export "get-random-u64" (func (result u64)))))
  (import "wasi:random/insecure@0.2.0" (instance $insecure
    (export "get-insecure-random-bytes" (func (param "len" u64) (result (list u8))))
    (export "get-insecure-random-u64" (func (result u64)))))
  (import "wasi:random/insecure-seed@0.2.0" (instance $insecure-seed
    (export "insecure-seed" (func (result (tuple u64 u64))))))

  (core module $memory
    (memory (export "memory") 2)
    (global $next (mut i32) (i32.const 4096))
    (func (export "realloc") (param $old i32) (param $had i32) (param $align i32) (param $size i32) (result i32)
      (global.set $next (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
      (global.get $next)
      (global.set $next (i32.add (global.get $next) (local.get $size)))))
  (core instance $memory (instantiate $memory))
  (alias core export $memory "memory" (core memory $mem))
  (alias core export $memory "realloc" (core func $realloc))

  (core func $get-environment (canon lower (func $environment "get-environment") (memory $mem) (realloc $realloc)))
  (core func $get-arguments (canon lower (func $environment "get-arguments") (memory $mem) (realloc $realloc)))
  (core func $initial-cwd (canon lower (func $environment "initial-cwd") (memory $mem) (realloc $realloc)))
  (core func $set-environment (canon lower (func $environment "set-environment") (memory $mem) (realloc $realloc)))
  (core func $exit (canon lower (func $exit "exit") (memory $mem) (realloc $realloc)))
  (core func $get-stdin (canon lower (func $stdin "get-stdin") (memory $mem) (realloc $realloc)))
  (core func $get-stdout (canon lower (func $stdout "get-stdout") (memory $mem) (realloc $realloc)))
  (core func $get-stderr (canon lower (func $stderr "get-stderr") (memory $mem) (realloc $realloc)))
  (core func $get-terminal-stdin (canon lower (func $terminal-stdin "get-terminal-stdin") (memory $mem) (realloc $realloc)))
  (core func $get-terminal-stdout (canon lower (func $terminal-stdout "get-terminal-stdout") (memory $mem) (realloc $realloc)))
  (core func $get-terminal-stderr (canon lower (func $terminal-stderr "get-terminal-stderr") (memory $mem) (realloc $realloc)))
  (core func $mono-now (canon lower (func $monotonic "now") (memory $mem) (realloc $realloc)))
  (core func $mono-resolution (canon lower (func $monotonic "resolution") (memory $mem) (realloc $realloc)))
  (core func $subscribe-instant (canon lower (func $monotonic "subscribe-instant") (memory $mem) (realloc $realloc)))
  (core func $subscribe-duration (canon lower (func $monotonic "subscribe-duration") (memory $mem) (realloc $realloc)))
  (core func $wall-now (canon lower (func $wall "now") (memory $mem) (realloc $realloc)))
  (core func $wall-resolution (canon lower (func $wall "resolution") (memory $mem) (realloc $realloc)))
  (core func $get-directories (canon lower (func $preopens "get-directories") (memory $mem) (realloc $realloc)))
  (core func $ready (canon lower (func $poll "[method]pollable.ready") (memory $mem) (realloc $realloc)))
  (core func $block (canon lower (func $poll "[method]pollable.block") (memory $mem) (realloc $realloc)))
  (core func $poll (canon lower (func $poll "poll") (memory $mem) (realloc $realloc)))
  (core func $read (canon lower (func $streams "[method]input-stream.read") (memory $mem) (realloc $realloc)))
  (core func $blocking-read (canon lower (func $streams "[method]input-stream.blocking-read") (memory $mem) (realloc $realloc)))
  (core func $skip (canon lower (func $streams "[method]input-stream.skip") (memory $mem) (realloc $realloc)))
  (core func $blocking-skip (canon lower (func $streams "[method]input-stream.blocking-skip") (memory $mem) (realloc $realloc)))
  (core func $in-subscribe (canon lower (func $streams "[method]input-stream.subscribe") (memory $mem) (realloc $realloc)))
  (core func $check-write (canon lower (func $streams "[method]output-stream.check-write") (memory $mem) (realloc $realloc)))
  (core func $write (canon lower (func $streams "[method]output-stream.write") (memory $mem) (realloc $realloc)))
  (core func $blocking-write-and-flush (canon lower (func $streams "[method]output-stream.blocking-write-and-flush") (memory $mem) (realloc $realloc)))
  (core func $flush (canon lower (func $streams "[method]output-stream.flush") (memory $mem) (realloc $realloc)))
  (core func $blocking-flush (canon lower (func $streams "[method]output-stream.blocking-flush") (memory $mem) (realloc $realloc)))
  (core func $write-zeroes (canon lower (func $streams "[method]output-stream.write-zeroes") (memory $mem) (realloc $realloc)))
  (core func $blocking-write-zeroes-and-flush (canon lower (func $streams "[method]output-stream.blocking-write-zeroes-and-flush") (memory $mem) (realloc $realloc)))
  (core func $splice (canon lower (func $streams "[method]output-stream.splice") (memory $mem) (realloc $realloc)))
  (core func $blocking-splice (canon lower (func $streams "[method]output-stream.blocking-splice") (memory $mem) (realloc $realloc)))
  (core func $out-subscribe (canon lower (func $streams "[method]output-stream.subscribe") (memory $mem) (realloc $realloc)))
  (core func $get-random-bytes (canon lower (func $random "get-random-bytes") (memory $mem) (realloc $realloc)))
  (core func $get-random-u64 (canon lower (func $random "get-random-u64") (memory $mem) (realloc $realloc)))
  (core func $get-insecure-random-bytes (canon lower (func $insecure "get-insecure-random-bytes") (memory $mem) (realloc $realloc)))
  (core func $get-insecure-random-u64 (canon lower (func $insecure "get-insecure-random-u64") (memory $mem) (realloc $realloc)))
  (core func $insecure-seed (canon lower (func $insecure-seed "insecure-seed") (memory $mem) (realloc $realloc)))

  (core module $code
    (import "memory" "memory" (memory 2))
    (import "wasi" "get-environment" (func $get-environment (param i32)))
    (import "wasi" "get-arguments" (func $get-arguments (param i32)))
    (import "wasi" "initial-cwd" (func $initial-cwd (param i32)))
    (import "wasi" "set-environment" (func $set-environment))
    (import "wasi" "exit" (func $exit (param i32)))
    (import "wasi" "get-stdin" (func $get-stdin (result i32)))
    (import "wasi" "get-stdout" (func $get-stdout (result i32)))
    (import "wasi" "get-stderr" (func $get-stderr (result i32)))
    (import "wasi" "get-terminal-stdin" (func $get-terminal-stdin (param i32)))
    (import "wasi" "get-terminal-stdout" (func $get-terminal-stdout (param i32)))
    (import "wasi" "get-terminal-stderr" (func $get-terminal-stderr (param i32)))
    (import "wasi" "mono-now" (func $mono-now (result i64)))
    (import "wasi" "mono-resolution" (func $mono-resolution (result i64)))
    (import "wasi" "subscribe-instant" (func $subscribe-instant (param i64) (result i32)))
    (import "wasi" "subscribe-duration" (func $subscribe-duration (param i64) (result i32)))
    (import "wasi" "wall-now" (func $wall-now (param i32)))
    (import "wasi" "wall-resolution" (func $wall-resolution (param i32)))
    (import "wasi" "get-directories" (func $get-directories (param i32)))
    (import "wasi" "ready" (func $ready (param i32) (result i32)))
    (import "wasi" "block" (func $block (param i32)))
    (import "wasi" "poll" (func $poll (param i32 i32 i32)))
    (import "wasi" "read" (func $read (param i32 i64 i32)))
    (import "wasi" "blocking-read" (func $blocking-read (param i32 i64 i32)))
    (import "wasi" "skip" (func $skip (param i32 i64 i32)))
    (import "wasi" "blocking-skip" (func $blocking-skip (param i32 i64 i32)))
    (import "wasi" "in-subscribe" (func $in-subscribe (param i32) (result i32)))
    (import "wasi" "check-write" (func $check-write (param i32 i32)))
    (import "wasi" "write" (func $write (param i32 i32 i32 i32)))
    (import "wasi" "blocking-write-and-flush" (func $blocking-write-and-flush (param i32 i32 i32 i32)))
    (import "wasi" "flush" (func $flush (param i32 i32)))
    (import "wasi" "blocking-flush" (func $blocking-flush (param i32 i32)))
    (import "wasi" "write-zeroes" (func $write-zeroes (param i32 i64 i32)))
    (import "wasi" "blocking-write-zeroes-and-flush" (func $blocking-write-zeroes-and-flush (param i32 i64 i32)))
    (import "wasi" "splice" (func $splice (param i32 i32 i64 i32)))
    (import "wasi" "blocking-splice" (func $blocking-splice (param i32 i32 i64 i32)))
    (import "wasi" "out-subscribe" (func $out-subscribe (param i32) (result i32)))
    (import "wasi" "get-random-bytes" (func $get-random-bytes (param i64 i32)))
    (import "wasi" "get-random-u64" (func $get-random-u64 (result i64)))
    (import "wasi" "get-insecure-random-bytes" (func $get-insecure-random-bytes (param i64 i32)))
    (import "wasi" "get-insecure-random-u64" (func $get-insecure-random-u64 (result i64)))
    (import "wasi" "insecure-seed" (func $insecure-seed (param i32)))
    (func $must (param i32) (if (i32.eqz (local.get 0)) (then unreachable)))
    (table 38 funcref)
    (elem (i32.const 0) func ;; $cases
      $case-get-environment
      $case-get-arguments
      $case-get-directories
      $case-initial-cwd
      $case-get-terminal-stdin
      $case-get-terminal-stdout
      $case-get-terminal-stderr
      $case-get-stderr
      $case-mono-now
      $case-mono-resolution
      $case-wall-now
      $case-wall-resolution
      $case-subscribe-instant
      $case-subscribe-duration
      $case-in-subscribe
      $case-out-subscribe
      $case-poll
      $case-read
      $case-blocking-read
      $case-skip
      $case-blocking-skip
      $case-check-write
      $case-write
      $case-blocking-write-and-flush
      $case-flush
      $case-blocking-flush
      $case-write-zeroes
      $case-blocking-write-zeroes-and-flush
      $case-splice
      $case-blocking-splice
      $case-get-random-bytes
      $case-get-insecure-random-bytes
      $case-get-random-u64
      $case-get-insecure-random-u64
      $case-insecure-seed
      $case-exit
      $case-set-environment
      $case-get-random-bytes-huge
      )
    (func $case-get-environment
      (call $get-environment (i32.const 512))
      (call $must (i32.eq (i32.load (i32.const 516)) (i32.const 0))))
    (func $case-get-arguments
      (call $get-arguments (i32.const 512))
      (call $must (i32.eq (i32.load (i32.const 516)) (i32.const 0))))
    (func $case-get-directories
      (call $get-directories (i32.const 512))
      (call $must (i32.eq (i32.load (i32.const 516)) (i32.const 0))))
    (func $case-initial-cwd
      (call $initial-cwd (i32.const 512))
      (call $must (i32.eq (i32.load8_u (i32.const 512)) (i32.const 0))))
    (func $case-get-terminal-stdin
      (call $get-terminal-stdin (i32.const 512))
      (call $must (i32.eq (i32.load8_u (i32.const 512)) (i32.const 0))))
    (func $case-get-terminal-stdout
      (call $get-terminal-stdout (i32.const 512))
      (call $must (i32.eq (i32.load8_u (i32.const 512)) (i32.const 0))))
    (func $case-get-terminal-stderr
      (call $get-terminal-stderr (i32.const 512))
      (call $must (i32.eq (i32.load8_u (i32.const 512)) (i32.const 0))))
    (func $case-get-stderr (drop (call $get-stderr)))
    (func $case-mono-now (call $must (i64.eq (call $mono-now) (i64.const 0))))
    (func $case-mono-resolution (call $must (i64.eq (call $mono-resolution) (i64.const 1))))
    (func $case-wall-now
      (call $wall-now (i32.const 512))
      (call $must (i64.eq (i64.load (i32.const 512)) (i64.const 0)))
      (call $must (i32.eq (i32.load (i32.const 520)) (i32.const 0))))
    (func $case-wall-resolution
      (call $wall-resolution (i32.const 512))
      (call $must (i64.eq (i64.load (i32.const 512)) (i64.const 0)))
      (call $must (i32.eq (i32.load (i32.const 520)) (i32.const 1))))
    (func $case-subscribe-instant (call $must (call $ready (call $subscribe-instant (i64.const 9)))))
    (func $case-subscribe-duration (call $block (call $subscribe-duration (i64.const -1))))
    (func $case-in-subscribe (call $must (call $ready (call $in-subscribe (call $get-stdin)))))
    (func $case-out-subscribe (call $must (call $ready (call $out-subscribe (call $get-stdout)))))
    (func $case-poll
      (i32.store (i32.const 600) (call $subscribe-duration (i64.const 1)))
      (i32.store (i32.const 604) (call $subscribe-duration (i64.const 2)))
      (call $poll (i32.const 600) (i32.const 2) (i32.const 512))
      (call $must (i32.eq (i32.load (i32.const 516)) (i32.const 2)))
      (call $must (i32.eqz (i32.load (i32.load (i32.const 512)))))
      (call $must (i32.eq (i32.load offset=4 (i32.load (i32.const 512))) (i32.const 1))))
    (func $case-read
      (call $read (call $get-stdin) (i64.const 10) (i32.const 512))
      (call $must (i32.eq (i32.load8_u (i32.const 512)) (i32.const 1)))
      (call $must (i32.eq (i32.load8_u (i32.const 516)) (i32.const 1))))
    (func $case-blocking-read
      (call $blocking-read (call $get-stdin) (i64.const 10) (i32.const 512))
      (call $must (i32.eq (i32.load8_u (i32.const 512)) (i32.const 1)))
      (call $must (i32.eq (i32.load8_u (i32.const 516)) (i32.const 1))))
    (func $case-skip
      (call $skip (call $get-stdin) (i64.const 10) (i32.const 512))
      (call $must (i32.eq (i32.load8_u (i32.const 512)) (i32.const 1)))
      (call $must (i32.eq (i32.load8_u (i32.const 520)) (i32.const 1))))
    (func $case-blocking-skip
      (call $blocking-skip (call $get-stdin) (i64.const 10) (i32.const 512))
      (call $must (i32.eq (i32.load8_u (i32.const 512)) (i32.const 1)))
      (call $must (i32.eq (i32.load8_u (i32.const 520)) (i32.const 1))))
    (func $case-check-write
      (call $check-write (call $get-stdout) (i32.const 512))
      (call $must (i32.eq (i32.load8_u (i32.const 512)) (i32.const 0)))
      (call $must (i64.eq (i64.load (i32.const 520)) (i64.const 65536))))
    (func $case-write
      (call $write (call $get-stdout) (i32.const 0) (i32.const 65536) (i32.const 512))
      (call $must (i32.eq (i32.load8_u (i32.const 512)) (i32.const 0))))
    (func $case-blocking-write-and-flush
      (call $blocking-write-and-flush (call $get-stdout) (i32.const 0) (i32.const 65536) (i32.const 512))
      (call $must (i32.eq (i32.load8_u (i32.const 512)) (i32.const 0))))
    (func $case-flush
      (call $flush (call $get-stdout) (i32.const 512))
      (call $must (i32.eq (i32.load8_u (i32.const 512)) (i32.const 0))))
    (func $case-blocking-flush
      (call $blocking-flush (call $get-stdout) (i32.const 512))
      (call $must (i32.eq (i32.load8_u (i32.const 512)) (i32.const 0))))
    (func $case-write-zeroes
      (call $write-zeroes (call $get-stdout) (i64.const -1) (i32.const 512))
      (call $must (i32.eq (i32.load8_u (i32.const 512)) (i32.const 0))))
    (func $case-blocking-write-zeroes-and-flush
      (call $blocking-write-zeroes-and-flush (call $get-stdout) (i64.const -1) (i32.const 512))
      (call $must (i32.eq (i32.load8_u (i32.const 512)) (i32.const 0))))
    (func $case-splice
      (call $splice (call $get-stdout) (call $get-stdin) (i64.const 10) (i32.const 512))
      (call $must (i32.eq (i32.load8_u (i32.const 512)) (i32.const 1)))
      (call $must (i32.eq (i32.load8_u (i32.const 520)) (i32.const 1))))
    (func $case-blocking-splice
      (call $blocking-splice (call $get-stdout) (call $get-stdin) (i64.const 10) (i32.const 512))
      (call $must (i32.eq (i32.load8_u (i32.const 512)) (i32.const 1)))
      (call $must (i32.eq (i32.load8_u (i32.const 520)) (i32.const 1))))
    (func $case-get-random-bytes
      (call $get-random-bytes (i64.const 12) (i32.const 512))
      (call $must (i32.eq (i32.load (i32.const 516)) (i32.const 12)))
      (call $must (i64.eq (i64.load (i32.load (i32.const 512))) (i64.const -2152535657050944081))))
    (func $case-get-insecure-random-bytes
      (call $get-insecure-random-bytes (i64.const 12) (i32.const 512))
      (call $must (i32.eq (i32.load (i32.const 516)) (i32.const 12)))
      (call $must (i64.eq (i64.load (i32.load (i32.const 512))) (i64.const -2152535657050944081))))
    (func $case-get-random-u64 (call $must (i64.eq (call $get-random-u64) (i64.const -2152535657050944081))))
    (func $case-get-insecure-random-u64 (call $must (i64.eq (call $get-insecure-random-u64) (i64.const -2152535657050944081))))
    (func $case-insecure-seed
      (call $insecure-seed (i32.const 512))
      (call $must (i64.eq (i64.load (i32.const 512)) (i64.const -2152535657050944081))))
    (func $case-exit (call $exit (i32.const 0)))
    (func $case-set-environment (call $set-environment))
    (func $case-get-random-bytes-huge (call $get-random-bytes (i64.const -1) (i32.const 512)))
    (func $digit (param i32) (result i32) (i32.sub (i32.load8_u (local.get 0)) (i32.const 48)))
    ;; The answer at 64 is all zeros, which is `ok`.
    (func (export "configure") (param $settings i32) (param $length i32) (result i32)
      (call_indirect (i32.add
        (i32.mul (call $digit (local.get $settings)) (i32.const 10))
        (call $digit (i32.add (local.get $settings) (i32.const 1)))))
      (i32.const 64))
    (func (export "describe") (result i32) i32.const 0)
    ;; A description: name and version point to the four bytes at 128, the rest is empty.
    (data (i32.const 0) "\80\00\00\00\04\00\00\00\80\00\00\00\04\00\00\00")
    (data (i32.const 128) "wasi"))
  (core instance $run (instantiate $code
    (with "memory" (instance $memory))
    (with "wasi" (instance
      (export "get-environment" (func $get-environment))
      (export "get-arguments" (func $get-arguments))
      (export "initial-cwd" (func $initial-cwd))
      (export "set-environment" (func $set-environment))
      (export "exit" (func $exit))
      (export "get-stdin" (func $get-stdin))
      (export "get-stdout" (func $get-stdout))
      (export "get-stderr" (func $get-stderr))
      (export "get-terminal-stdin" (func $get-terminal-stdin))
      (export "get-terminal-stdout" (func $get-terminal-stdout))
      (export "get-terminal-stderr" (func $get-terminal-stderr))
      (export "mono-now" (func $mono-now))
      (export "mono-resolution" (func $mono-resolution))
      (export "subscribe-instant" (func $subscribe-instant))
      (export "subscribe-duration" (func $subscribe-duration))
      (export "wall-now" (func $wall-now))
      (export "wall-resolution" (func $wall-resolution))
      (export "get-directories" (func $get-directories))
      (export "ready" (func $ready))
      (export "block" (func $block))
      (export "poll" (func $poll))
      (export "read" (func $read))
      (export "blocking-read" (func $blocking-read))
      (export "skip" (func $skip))
      (export "blocking-skip" (func $blocking-skip))
      (export "in-subscribe" (func $in-subscribe))
      (export "check-write" (func $check-write))
      (export "write" (func $write))
      (export "blocking-write-and-flush" (func $blocking-write-and-flush))
      (export "flush" (func $flush))
      (export "blocking-flush" (func $blocking-flush))
      (export "write-zeroes" (func $write-zeroes))
      (export "blocking-write-zeroes-and-flush" (func $blocking-write-zeroes-and-flush))
      (export "splice" (func $splice))
      (export "blocking-splice" (func $blocking-splice))
      (export "out-subscribe" (func $out-subscribe))
      (export "get-random-bytes" (func $get-random-bytes))
      (export "get-random-u64" (func $get-random-u64))
      (export "get-insecure-random-bytes" (func $get-insecure-random-bytes))
      (export "get-insecure-random-u64" (func $get-insecure-random-u64))
      (export "insecure-seed" (func $insecure-seed))))))

  (type $description (record (field "name" string) (field "version" string) (field "summary" string)
    (field "attributes" (list string)) (field "settings-schema" string)))
  (type $problem (record (field "path" string) (field "message" string)))
  (func $describe (result $description) (canon lift (core func $run "describe") (memory $mem)))
  (func $configure (param "settings" string) (result (result (error (list $problem))))
    (canon lift (core func $run "configure") (memory $mem) (realloc $realloc)))
  ;; Gives the types of the interface their names.
  (component $named
    (type $d (record (field "name" string) (field "version" string) (field "summary" string)
      (field "attributes" (list string)) (field "settings-schema" string)))
    (type $p (record (field "path" string) (field "message" string)))
    (import "description" (type $description (eq $d)))
    (import "problem" (type $problem (eq $p)))
    (import "describe" (func $describe (result $description)))
    (import "configure" (func $configure (param "settings" string) (result (result (error (list $problem))))))
    (export $exported-description "description" (type $description))
    (export $exported-problem "problem" (type $problem))
    (export "describe" (func $describe) (func (result $exported-description)))
    (export "configure" (func $configure)
      (func (param "settings" string) (result (result (error (list $exported-problem)))))))
  (instance $policy (instantiate $named
    (with "description" (type $description)) (with "problem" (type $problem))
    (with "describe" (func $describe)) (with "configure" (func $configure))))
  (export "cutover:policy/policy@0.1.0" (instance $policy))
  ;; A `judge` of the wrong type counts as one until its type is looked at, which is after `configure`.
  (component $wrong
    (import "f" (func $f (result string)))
    (export "judge" (func $f)))
  (func $text (result string) (canon lift (core func $run "describe") (memory $mem)))
  (instance $rollback (instantiate $wrong (with "f" (func $text))))
  (export "cutover:policy/rollback@0.1.0" (instance $rollback)))
