;; A component whose answer is the time, in whole seconds, or 0.
(component
  (import "wasi:clocks/wall-clock@0.2.0" (instance $clock
    (type $record (record (field "seconds" u64) (field "nanoseconds" u32)))
    (export "datetime" (type $datetime (eq $record)))
    (export "now" (func (result $datetime)))))
  (core module $state
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096)))
  (core instance $state (instantiate $state))
  (core func $now (canon lower (func $clock "now") (memory (core memory $state "memory"))))
  (core module $tools
    (import "state" "memory" (memory 1))
    (import "clock" "now" (func $now (param i32)))
    (func (export "list-tools") (result i32) (i32.const 16))
    (func (export "call-tool") (param i32 i32 i32 i32) (result i32)
      (local $rest i64) (local $at i32)
      (call $now (i32.const 64))
      (local.set $rest (i64.load (i32.const 64)))
      (local.set $at (i32.const 128))
      (loop $digits
        (local.set $at (i32.sub (local.get $at) (i32.const 1)))
        (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $rest) (i64.const 10)))))
        (local.set $rest (i64.div_u (local.get $rest) (i64.const 10)))
        (br_if $digits (i64.ne (local.get $rest) (i64.const 0))))
      (i32.store (i32.const 20) (local.get $at))
      (i32.store (i32.const 24) (i32.sub (i32.const 128) (local.get $at)))
      (i32.const 16)))
  (core instance $tools (instantiate $tools
    (with "state" (instance $state))
    (with "clock" (instance (export "now" (func $now))))))
  (func (export "list-tools") (result (result (list string) (error string)))
    (canon lift (core func $tools "list-tools") (memory (core memory $state "memory")) (realloc (core func $state "realloc"))))
  (func (export "call-tool") (param "name" string) (param "arguments" string) (result (result string (error string)))
    (canon lift (core func $tools "call-tool") (memory (core memory $state "memory")) (realloc (core func $state "realloc")))))
