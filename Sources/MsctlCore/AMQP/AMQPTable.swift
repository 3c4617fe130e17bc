import CRabbitMQ

/// Memory for what is handed to librabbitmq, all freed at once: owns an `amqp_pool_t`.
struct AMQPPool: ~Copyable {
  private var pool = amqp_pool_t()

  init() {
    init_amqp_pool(&pool, 4096)
  }

  deinit {
    var pool = pool
    empty_amqp_pool(&pool)
  }

  /// Frees what was handed out, and keeps the pages for the next time.
  mutating func recycle() {
    recycle_amqp_pool(&pool)
  }

  mutating func bytes(_ text: String) -> amqp_bytes_t {
    if let raw = AMQPText.bytes(text) { return raw.withUnsafeBytes { bytes($0) } }
    var text = text
    return text.withUTF8 { bytes(UnsafeRawBufferPointer($0)) }
  }

  mutating func bytes(_ source: UnsafeRawBufferPointer) -> amqp_bytes_t {
    guard let base = source.baseAddress, source.count > 0,
      let copy = amqp_pool_alloc(&pool, source.count)
    else { return amqp_bytes_t(len: 0, bytes: nil) }
    copy.copyMemory(from: base, byteCount: source.count)
    return amqp_bytes_t(len: source.count, bytes: copy)
  }

  mutating func table(_ fields: [AMQPField]) -> amqp_table_t {
    guard let entries = array(of: amqp_table_entry_t.self, fields.count) else {
      return amqp_table_t(num_entries: 0, entries: nil)
    }
    for (index, field) in fields.enumerated() {
      (entries + index).initialize(to: amqp_table_entry_t(key: bytes(field.name), value: value(field.value)))
    }
    return amqp_table_t(num_entries: Int32(clamping: fields.count), entries: entries)
  }

  private mutating func value(_ value: AMQPValue) -> amqp_field_value_t {
    var field = amqp_field_value_t()
    func kind(_ kind: amqp_field_value_kind_t) { field.kind = UInt8(clamping: kind.rawValue) }
    switch value {
    case .bool(let flag):
      kind(AMQP_FIELD_KIND_BOOLEAN)
      field.value.boolean = flag ? 1 : 0
    case .integer(let number):
      kind(AMQP_FIELD_KIND_I64)
      field.value.i64 = number
    case .unsigned(let number):
      kind(AMQP_FIELD_KIND_U64)
      field.value.u64 = number
    case .narrow(let width, let number):
      switch width {
      case .int8:
        kind(AMQP_FIELD_KIND_I8)
        field.value.i8 = Int8(clamping: number)
      case .uint8:
        kind(AMQP_FIELD_KIND_U8)
        field.value.u8 = UInt8(clamping: number)
      case .int16:
        kind(AMQP_FIELD_KIND_I16)
        field.value.i16 = Int16(clamping: number)
      case .uint16:
        kind(AMQP_FIELD_KIND_U16)
        field.value.u16 = UInt16(clamping: number)
      case .int32:
        kind(AMQP_FIELD_KIND_I32)
        field.value.i32 = Int32(clamping: number)
      case .uint32:
        kind(AMQP_FIELD_KIND_U32)
        field.value.u32 = UInt32(clamping: number)
      }
    case .float(let number):
      kind(AMQP_FIELD_KIND_F32)
      field.value.f32 = number
    case .double(let number):
      kind(AMQP_FIELD_KIND_F64)
      field.value.f64 = number
    case .decimal(let scale, let number):
      kind(AMQP_FIELD_KIND_DECIMAL)
      field.value.decimal = amqp_decimal_t(decimals: scale, value: UInt32(bitPattern: number))
    case .string(let text):
      kind(AMQP_FIELD_KIND_UTF8)
      field.value.bytes = bytes(text)
    case .bytes(let data):
      kind(AMQP_FIELD_KIND_BYTES)
      field.value.bytes = data.withUnsafeBytes { bytes($0) }
    case .timestamp(let seconds):
      kind(AMQP_FIELD_KIND_TIMESTAMP)
      field.value.u64 = seconds
    case .table(let fields):
      kind(AMQP_FIELD_KIND_TABLE)
      field.value.table = table(fields)
    case .array(let values):
      kind(AMQP_FIELD_KIND_ARRAY)
      let entries = array(of: amqp_field_value_t.self, values.count)
      for (index, item) in values.enumerated() { entries.map { ($0 + index).initialize(to: self.value(item)) } }
      field.value.array = amqp_array_t(num_entries: Int32(clamping: values.count), entries: entries)
    case .void:
      kind(AMQP_FIELD_KIND_VOID)
    }
    return field
  }

  private mutating func array<T>(of type: T.Type, _ count: Int) -> UnsafeMutablePointer<T>? {
    guard count > 0, let memory = amqp_pool_alloc(&pool, count * MemoryLayout<T>.stride) else { return nil }
    return memory.bindMemory(to: T.self, capacity: count)
  }
}

extension AMQPField {
  /// Copies a table out of librabbitmq's memory.
  static func list(_ table: amqp_table_t) -> [AMQPField] {
    (0..<max(0, Int(clamping: table.num_entries))).map { index in
      AMQPField(String(table.entries[index].key), AMQPValue(table.entries[index].value))
    }
  }
}

extension AMQPValue {
  init(_ field: amqp_field_value_t) {
    let value = field.value
    switch amqp_field_value_kind_t(UInt32(clamping: field.kind)) {
    case AMQP_FIELD_KIND_BOOLEAN: self = .bool(value.boolean != 0)
    case AMQP_FIELD_KIND_I8: self = .narrow(.int8, Int64(clamping: value.i8))
    case AMQP_FIELD_KIND_U8: self = .narrow(.uint8, Int64(clamping: value.u8))
    case AMQP_FIELD_KIND_I16: self = .narrow(.int16, Int64(clamping: value.i16))
    case AMQP_FIELD_KIND_U16: self = .narrow(.uint16, Int64(clamping: value.u16))
    case AMQP_FIELD_KIND_I32: self = .narrow(.int32, Int64(clamping: value.i32))
    case AMQP_FIELD_KIND_U32: self = .narrow(.uint32, Int64(clamping: value.u32))
    case AMQP_FIELD_KIND_I64: self = .integer(value.i64)
    case AMQP_FIELD_KIND_U64: self = .unsigned(value.u64)
    case AMQP_FIELD_KIND_F32: self = .float(value.f32)
    case AMQP_FIELD_KIND_F64: self = .double(value.f64)
    case AMQP_FIELD_KIND_DECIMAL:
      self = .decimal(scale: value.decimal.decimals, value: Int32(bitPattern: value.decimal.value))
    case AMQP_FIELD_KIND_UTF8: self = .string(String(value.bytes))
    case AMQP_FIELD_KIND_BYTES: self = .bytes([UInt8](value.bytes))
    case AMQP_FIELD_KIND_TIMESTAMP: self = .timestamp(value.u64)
    case AMQP_FIELD_KIND_TABLE: self = .table(AMQPField.list(value.table))
    case AMQP_FIELD_KIND_ARRAY:
      self = .array((0..<max(0, Int(clamping: value.array.num_entries))).map { AMQPValue(value.array.entries[$0]) })
    default: self = .void
    }
  }
}

extension AMQPProperties {
  /// Copies properties out of librabbitmq's memory.
  init(_ properties: amqp_basic_properties_t) {
    func isSet(_ flag: Int32) -> Bool { properties._flags & amqp_flags_t(flag) != 0 }
    func text(_ flag: Int32, _ bytes: amqp_bytes_t) -> String? { isSet(flag) ? String(bytes) : nil }
    contentType = text(AMQP_BASIC_CONTENT_TYPE_FLAG, properties.content_type)
    contentEncoding = text(AMQP_BASIC_CONTENT_ENCODING_FLAG, properties.content_encoding)
    headers = isSet(AMQP_BASIC_HEADERS_FLAG) ? AMQPField.list(properties.headers) : nil
    deliveryMode = isSet(AMQP_BASIC_DELIVERY_MODE_FLAG) ? properties.delivery_mode : nil
    priority = isSet(AMQP_BASIC_PRIORITY_FLAG) ? properties.priority : nil
    correlationID = text(AMQP_BASIC_CORRELATION_ID_FLAG, properties.correlation_id)
    replyTo = text(AMQP_BASIC_REPLY_TO_FLAG, properties.reply_to)
    expiration = text(AMQP_BASIC_EXPIRATION_FLAG, properties.expiration)
    messageID = text(AMQP_BASIC_MESSAGE_ID_FLAG, properties.message_id)
    timestamp = isSet(AMQP_BASIC_TIMESTAMP_FLAG) ? properties.timestamp : nil
    type = text(AMQP_BASIC_TYPE_FLAG, properties.type)
    userID = text(AMQP_BASIC_USER_ID_FLAG, properties.user_id)
    appID = text(AMQP_BASIC_APP_ID_FLAG, properties.app_id)
    clusterID = text(AMQP_BASIC_CLUSTER_ID_FLAG, properties.cluster_id)
  }

  /// The properties in the pool's memory.
  func c(in pool: inout AMQPPool) -> amqp_basic_properties_t {
    var c = amqp_basic_properties_t()
    func text(_ flag: Int32, _ field: WritableKeyPath<amqp_basic_properties_t, amqp_bytes_t>, _ value: String?) {
      guard let value else { return }
      c._flags |= amqp_flags_t(flag)
      c[keyPath: field] = pool.bytes(value)
    }
    func number<N>(_ flag: Int32, _ field: WritableKeyPath<amqp_basic_properties_t, N>, _ value: N?) {
      guard let value else { return }
      c._flags |= amqp_flags_t(flag)
      c[keyPath: field] = value
    }
    text(AMQP_BASIC_CONTENT_TYPE_FLAG, \.content_type, contentType)
    text(AMQP_BASIC_CONTENT_ENCODING_FLAG, \.content_encoding, contentEncoding)
    if let headers {
      c._flags |= amqp_flags_t(AMQP_BASIC_HEADERS_FLAG)
      c.headers = pool.table(headers)
    }
    number(AMQP_BASIC_DELIVERY_MODE_FLAG, \.delivery_mode, deliveryMode)
    number(AMQP_BASIC_PRIORITY_FLAG, \.priority, priority)
    text(AMQP_BASIC_CORRELATION_ID_FLAG, \.correlation_id, correlationID)
    text(AMQP_BASIC_REPLY_TO_FLAG, \.reply_to, replyTo)
    text(AMQP_BASIC_EXPIRATION_FLAG, \.expiration, expiration)
    text(AMQP_BASIC_MESSAGE_ID_FLAG, \.message_id, messageID)
    number(AMQP_BASIC_TIMESTAMP_FLAG, \.timestamp, timestamp)
    text(AMQP_BASIC_TYPE_FLAG, \.type, type)
    text(AMQP_BASIC_USER_ID_FLAG, \.user_id, userID)
    text(AMQP_BASIC_APP_ID_FLAG, \.app_id, appID)
    text(AMQP_BASIC_CLUSTER_ID_FLAG, \.cluster_id, clusterID)
    return c
  }
}

extension Array<UInt8> {
  init(_ bytes: amqp_bytes_t) {
    self = Array(UnsafeRawBufferPointer(start: bytes.bytes, count: bytes.len))
  }
}

// MARK: Sizes

extension AMQPMessage {
  /// Why this message cannot be sent in frames of `frameMax` bytes; nil where it can. librabbitmq notices some of it too late,
  /// when half of the message is sent and the broker closes the connection over it.
  func obstacle(frameMax: Int) -> String? {
    // The frame's own bytes, the class, the weight, the size of the body, the flags and the properties that are numbers.
    var size = 8 + 12 + 2 + 1 + 1 + 8
    var tooLong: StaticString?
    func add(_ name: StaticString, _ text: String?) {
      guard let text else { return }
      let count = AMQPText.count(text)
      if count > 255 { tooLong = name }
      size += 1 + count
    }
    add("exchange", exchange)
    add("routing key", routingKey)
    add("content_type", properties.contentType)
    add("content_encoding", properties.contentEncoding)
    add("correlation_id", properties.correlationID)
    add("reply_to", properties.replyTo)
    add("expiration", properties.expiration)
    add("message_id", properties.messageID)
    add("type", properties.type)
    add("user_id", properties.userID)
    add("app_id", properties.appID)
    add("cluster_id", properties.clusterID)
    if let tooLong { return "its \(tooLong) is longer than 255 bytes" }
    guard let headers = properties.headers else { return nil }
    guard AMQPValue.hasShortNames(headers) else { return "the name of a header is longer than 255 bytes" }
    size += AMQPValue.table(headers).encodedSize
    return size <= frameMax ? nil : "its headers do not fit into a frame of \(frameMax) bytes"
  }
}

extension AMQPValue {
  fileprivate static func hasShortNames(_ fields: [AMQPField]) -> Bool {
    fields.allSatisfy { AMQPText.count($0.name) <= 255 && $0.value.hasShortNames }
  }

  private var hasShortNames: Bool {
    switch self {
    case .table(let fields): Self.hasShortNames(fields)
    case .array(let values): values.allSatisfy(\.hasShortNames)
    default: true
    }
  }

  /// How many bytes the value takes, its type not counted.
  fileprivate var encodedSize: Int {
    switch self {
    case .void: 0
    case .bool, .narrow(.int8, _), .narrow(.uint8, _): 1
    case .narrow(.int16, _), .narrow(.uint16, _): 2
    case .narrow, .float: 4
    case .decimal: 5
    case .integer, .unsigned, .double, .timestamp: 8
    case .string(let text): 4 + AMQPText.count(text)
    case .bytes(let bytes): 4 + bytes.count
    case .array(let values): values.reduce(4) { $0 + 1 + $1.encodedSize }
    case .table(let fields): fields.reduce(4) { $0 + 2 + AMQPText.count($1.name) + $1.value.encodedSize }
    }
  }
}
